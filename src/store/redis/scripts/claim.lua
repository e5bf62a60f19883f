-- Claims an idempotency key: its value is the hash of the body (8 bytes), the id (16) and how far it is ('p' or 'd').
-- KEYS: the key
-- ARGV: hash of the body, id, ttl
-- Answer: {0, id}: it is this push's; {1, id}: a push has it of which nobody knows whether it was stored; {2, id}: one that was;
--         {3, ''}: another push has it

local known = redis.call('GET', KEYS[1])
if not known then
  redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2] .. 'p', 'PX', ARGV[3])
  return { 0, ARGV[2] }
end
if string.sub(known, 1, 8) ~= ARGV[1] then
  return { 3, '' }
end
local state = 1
if string.sub(known, 25) == 'd' then
  state = 2
end
return { state, string.sub(known, 9, 24) }
