-- The newest push of a stream. If what a reader was given is not in it, the store was cut back: the stream has another epoch
-- from now on, once for all who ask, since the second finds an epoch that is not the one that it knows.
-- KEYS: meta, entries, devices, changes
-- ARGV: known epoch ('' for none), known seq, known id ('' for an unknown one), an epoch for a stream that was cut back, the address,
--       how many changes are kept
-- Answer: nil: no stream; else {epoch, head, head id, '1' if it was cut back}

local meta, entries, devices, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local known = redis.call('HMGET', meta, 'e', 's', 'i')
if not known[1] or not known[2] then
  return false
end
local epoch, head, head_id = known[1], tonumber(known[2]), known[3]
if ARGV[1] ~= epoch then
  return { epoch, head, head_id, 0 }
end

local at, id = tonumber(ARGV[2]), ARGV[3]
local is_cut = at > head
if id ~= '' and at == head then
  is_cut = at > 0 and id ~= head_id
elseif id ~= '' and at < head then
  local entry = entry_at(entries, at)
  is_cut = entry and entry[2][2] ~= id
end
if not is_cut then
  return { epoch, head, head_id, 0 }
end

epoch = ARGV[4]
redis.call('HSET', meta, 'e', epoch, 'c', '1')
-- a cursor may have moved on by what was lost, over what is new: copies are better than that
local cursors = redis.call('HGETALL', devices)
for position = 1, #cursors, 2 do
  local _, seen = cursor(cursors[position + 1])
  redis.call('HSET', devices, cursors[position], string.format('0:%.0f', seen))
end
-- the other nodes look, too
redis.call('XADD', changes, 'MAXLEN', '~', ARGV[6], '*', 'a', ARGV[5], 'e', epoch, 's', string.format('%.0f', head), 'i', head_id)
redis.call('EXPIRE', changes, 86400)
return { epoch, head, head_id, 1 }
