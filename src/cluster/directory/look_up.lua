-- Finds the nodes that hold addresses of one partition.
-- KEYS[1]  sorted set: the nodes that have written all they hold, by the ms at which their leases end; '' with a number below 0, which is
--          another one whenever a node comes into the set
-- KEYS[2…] sets: the nodes that hold an address
-- ARGV     which nodes of KEYS[1] the caller knows already
-- Answers  which nodes of KEYS[1] there are now; these nodes, unless the caller knows them; for each address those that hold it
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local version = (redis.call('ZSCORE', KEYS[1], '') or '0') .. ':' .. redis.call('ZCOUNT', KEYS[1], now, '+inf')
local answer = {version, false}
if version ~= ARGV[1] then
  answer[2] = redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
end
for at = 2, #KEYS do
  answer[at + 1] = redis.call('SMEMBERS', KEYS[at])
end
return answer
