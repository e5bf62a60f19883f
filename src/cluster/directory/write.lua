-- Writes what a node holds of one partition, and renews its lease there.
-- KEYS[1]  sorted set: each node that has written all it holds of this partition, by the ms at which its lease ends; besides '~<node>' for each
--          node that is about to, and '' with a number below 0, which is another one whenever a node comes into the set
-- KEYS[2…] sets: the nodes that hold an address
-- ARGV     the node; when it sent this, by this server's clock as it knows it (ms); how far off that may be (ms); its lease (ms); how long an
--          address is kept that nobody writes again (ms); what it is (below); for each address 1: it holds it
--            changes  of a node that has written all it holds
--            first, next, last  parts of all it holds;  whole  all of it
-- Answers  done (0: sent too long ago, or its clock is another), now (ms), and
--            1: the node has written all it holds;  0: more parts are to come;  -1: what it wrote before is lost, all has to be written
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local node, lease, what = ARGV[1], tonumber(ARGV[4]), ARGV[6]
if math.abs(now - tonumber(ARGV[2])) > tonumber(ARGV[3]) then
  return {0, now, 0}
end
for at = 2, #KEYS do
  if ARGV[at + 5] == '1' then
    redis.call('SADD', KEYS[at], node)
    redis.call('PEXPIRE', KEYS[at], ARGV[5])
  else
    redis.call('SREM', KEYS[at], node)
  end
end
local ends = tonumber(redis.call('ZSCORE', KEYS[1], node) or 0)
local began = '~' .. node
if what == 'changes' and ends < now or (what == 'next' or what == 'last') and not redis.call('ZSCORE', KEYS[1], began) then
  return {1, now, -1}
end
local is_part = what == 'first' or what == 'next'
if is_part then
  redis.call('ZADD', KEYS[1], now + lease, began)
else
  redis.call('ZREM', KEYS[1], began)
  redis.call('ZADD', KEYS[1], now + lease, node)
  if ends < now then
    redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now)
    redis.call('ZADD', KEYS[1], -(time[1] * 1000000 + time[2]), '')
  end
end
redis.call('PEXPIRE', KEYS[1], lease * 4)
return {1, now, is_part and 0 or 1}
