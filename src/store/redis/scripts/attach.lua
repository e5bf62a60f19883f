-- Where a reader begins; a device that is new has a cursor from now on.
-- KEYS: meta, entries, devices
-- ARGV: device ('' for a room), resume epoch ('' for none), resume seq, resume id ('' for none), max devices,
--       how long devices are kept, where a new one begins ('oldest' or 'head')
-- Answer: {0}: no stream; {1, epoch, head, head id, from, waiting (about, where they are many), reset}; {2}: too many devices

local meta, entries, devices = KEYS[1], KEYS[2], KEYS[3]
local device, idle = ARGV[1], tonumber(ARGV[6])

local known = redis.call('HMGET', meta, 'e', 's', 'i', 'c')
if not known[1] or not known[2] then
  return { 0 }
end
local epoch, head, head_id = known[1], tonumber(known[2]), known[3]

local has, reset = nil, 0
if ARGV[2] ~= '' then
  local at, id = tonumber(ARGV[3]), ARGV[4]
  local is_there = at <= head
  local there
  if at == head then
    there = head_id
  elseif is_there then
    local entry = entry_at(entries, at)
    there = entry and entry[2][2]
  end
  local differs = id ~= '' and there and there ~= id
  local holds = ARGV[2] == epoch and is_there and not differs
  -- In another epoch the same push at the same number says that the reader has what was before it; not where the stream was cut
  -- back: it may have read on over what is new.
  if holds or (is_there and id ~= '' and there == id and not known[4]) then
    has = at
  end
  if not holds then
    reset = 1
  end
end

local first = oldest(entries)
local begin = first and seq_of(first) - 1 or head
local from
if device == '' then
  from = has or (reset == 1 and begin) or head
else
  local text = redis.call('HGET', devices, device)
  if text then
    local seq = math.min(cursor(text), head)
    -- where Redis is full it is read all the same
    redis.pcall('HSET', devices, device, cursor_text(seq))
    -- a place in this epoch that is not there was cut back, and so may be what the cursor says
    from = has or (reset == 1 and ARGV[2] == epoch and begin) or seq
  else
    local start = head
    if reset == 1 or redis.call('HLEN', devices) == 0 or ARGV[7] == 'oldest' then
      start = begin
    end
    from = has or start
    if not make_room(devices, tonumber(ARGV[5]), idle) then
      return { 2 }
    end
    set_cursor(devices, device, from)
  end
  keep(meta, devices, idle)
end

-- Counted up to so many, and bytes of them; of more nobody knows how many are over or were overwritten, and all count.
local MOST, MOST_BYTES, TOGETHER = 128, 1048576, 16
local waiting, read, bytes, last = 0, 0, 0, from
while true do
  local entries_behind = redis.call('XRANGE', entries, '(' .. id_of(last), '+', 'COUNT', TOGETHER)
  for _, entry in ipairs(entries_behind) do
    if tonumber(entry[2][4]) > now then
      waiting = waiting + 1
    end
    read = read + 1
    bytes = bytes + #entry[2][8]
    last = seq_of(entry)
  end
  if #entries_behind < TOGETHER then
    break
  end
  if read >= MOST or bytes >= MOST_BYTES then
    waiting = waiting + math.min(redis.call('XLEN', entries) - read, head - last)
    break
  end
end
-- where nothing is left in between, who has less has all the same
if waiting == 0 then
  from = head
end
return { 1, epoch, head, head_id, from, waiting, reset }
