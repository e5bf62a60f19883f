-- What is known of a stream.
-- KEYS: meta, entries, devices, gone
-- ARGV: how long pushes that are gone are known
-- Answer: nil: no stream; else {epoch, head, head id, oldest seq, pushes, bytes, then for each device: field, seq, idle seconds}

local known = redis.call('HMGET', KEYS[1], 'e', 's', 'i', 'b')
if not known[1] or not known[2] then
  return false
end
local head = tonumber(known[2])
-- what is over goes first
local first = oldest(KEYS[2])
while first and tonumber(first[2][4]) <= now do
  remove(KEYS[1], KEYS[2], KEYS[4], tonumber(ARGV[1]), first)
  first = oldest(KEYS[2])
end
local info = { known[1], head, known[3], first and seq_of(first) or head + 1, redis.call('XLEN', KEYS[2]) }
info[6] = first and tonumber(redis.call('HGET', KEYS[1], 'b')) or 0
local devices = redis.call('HGETALL', KEYS[3])
for at = 1, #devices, 2 do
  local seq, seen = cursor(devices[at + 1])
  info[#info + 1] = devices[at]
  info[#info + 1] = seq
  info[#info + 1] = math.max(math.floor(now / 1000) - seen, 0)
end
return info
