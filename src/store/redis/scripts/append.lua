-- Appends a push to a stream, which begins if there is none.
-- KEYS: meta, entries, devices, changes, gone
-- ARGV: id, record, ttl, collapse key, max entries, max bytes, max age (0: none), an epoch for a new stream,
--       '1' if the push may be tried again, the address, how long devices are kept, how many changes are kept,
--       how long pushes that are gone are known
-- Answer: epoch, seq (0: the push was here before, and is gone), previous seq, previous id, pushed out, expired

local meta, entries, devices, changes, gone = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, record, collapse = ARGV[1], ARGV[2], ARGV[4]
local most, most_bytes, age = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local keep_gone = tonumber(ARGV[13])

local known = redis.call('HMGET', meta, 'e', 's', 'i', 'q', 'j', 'u')
local epoch, head, head_id = known[1], tonumber(known[2] or '0'), known[3] or ''
if ARGV[9] == '1' and redis.call('ZSCORE', gone, id) then
  return { epoch or ARGV[8], 0, 0, '', 0, 0 }
end
if not epoch then
  -- what is left of a stream that was forgotten means nothing in this one
  if redis.call('EXISTS', entries, devices) > 0 then
    redis.call('DEL', entries, devices)
  end
  epoch = ARGV[8]
elseif head_id == id then
  -- the same push again: it has its place
  return { epoch, head, tonumber(known[4]), known[5], 0, 0 }
else
  local place = redis.call('HGET', meta, 'p' .. id)
  if place then
    local seq, previous, previous_id = string.match(place, '^(%d+):(%d+):(.*)$')
    return { epoch, tonumber(seq), tonumber(previous), previous_id, 0, 0 }
  end
end

local seq = head + 1
local was_empty = redis.call('EXISTS', entries) == 0
local due = now + tonumber(ARGV[3])
if age > 0 then
  due = math.min(due, now + age)
end
redis.call('XADD', entries, id_of(seq), 'i', id, 'u', string.format('%.0f', due), 'k', collapse, 'r', record)
if was_empty then
  -- all that was in it is over: so is what is known of that. (Behind XADD, which fails where there is no memory.)
  redis.call('DEL', meta)
end
local bytes = redis.call('HINCRBY', meta, 'b', #record + OVERHEAD)
if collapse ~= '' then
  local before = redis.call('HGET', meta, 'k' .. collapse)
  local entry = before and entry_at(entries, tonumber(before))
  if entry then
    bytes = bytes - remove(meta, entries, gone, keep_gone, entry)
  end
  redis.call('HSET', meta, 'k' .. collapse, string.format('%.0f', seq))
end
if ARGV[9] == '1' then
  redis.call('HSET', meta, 'p' .. id, string.format('%.0f:%.0f:', seq, head) .. head_id)
end

-- the oldest make room; one push has room whatever its size is
local pushed_out, expired = 0, 0
local count = redis.call('XLEN', entries)
local cursors
local function is_waited_for(old)
  cursors = cursors or redis.call('HVALS', devices)
  for _, text in ipairs(cursors) do
    if cursor(text) < old then
      return true
    end
  end
  return #cursors == 0
end
while count > 1 do
  local first = oldest(entries)
  local is_over = tonumber(first[2][4]) <= now
  if not is_over and count <= most and bytes <= most_bytes then
    break
  end
  if is_waited_for(seq_of(first)) then
    if is_over then
      expired = expired + 1
    else
      pushed_out = pushed_out + 1
    end
  end
  bytes = bytes - remove(meta, entries, gone, keep_gone, first)
  count = count - 1
end

local last = math.max(tonumber(known[6] or '0'), due)
redis.call('HSET', meta, 'e', epoch, 's', string.format('%.0f', seq), 'i', id, 'q', string.format('%.0f', head),
  'j', head_id, 'u', string.format('%.0f', last))
redis.call('PEXPIREAT', entries, string.format('%.0f', last))
local until_idle = 0
if redis.call('EXISTS', devices) == 1 then
  until_idle = now + tonumber(ARGV[11])
end
redis.call('PEXPIREAT', meta, string.format('%.0f', math.max(last, until_idle) + KEEP_EMPTY))

redis.call('XADD', changes, 'MAXLEN', '~', ARGV[12], '*', 'a', ARGV[10], 'e', epoch, 's', string.format('%.0f', seq), 'i', id)
redis.call('EXPIRE', changes, 86400)
return { epoch, seq, head, head_id, pushed_out, expired }
