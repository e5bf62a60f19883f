-- Writes what a node holds of one partition, and renews its lease there.
-- KEYS[1]  sorted set of nodes: see below
-- KEYS[2…] sets: the nodes that hold an address
-- ARGV     1 the node; 2 when it sent this, by this server's clock as it knows it (ms); 3 how far off that may be (ms); 4 its lease (ms);
--          5 how long an address is kept that nobody writes again (ms); 6 what it writes; 7… for each address 1: it holds it, 0: it does not
--   changes              of a node that has written all it holds
--   first, next, last    all it holds, in parts;  whole: in one
-- Answers  done (0: it was sent too long ago, or the clocks differ), now (ms), and
--            1: the node has written all it holds;  0: more parts are to come;  -1: what it wrote before is lost, all has to be written
--
-- In KEYS[1] are, with numbers above 0, the nodes that have written all they hold, each with the ms at which its lease ends. Below 0 are:
-- '' with a number that is another one whenever a node comes into the set, so that this number and the count of nodes tell one set from
-- another; and '~<node>' for a node that is writing in parts, with the ms of the last part.
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
local parts = '~' .. node
local ends = tonumber(redis.call('ZSCORE', KEYS[1], node) or 0)
local last_part = -tonumber(redis.call('ZSCORE', KEYS[1], parts) or 0)
if what == 'changes' and ends < now or (what == 'next' or what == 'last') and last_part + lease < now then
  return {1, now, -1}
end
local has_more = what == 'first' or what == 'next'
if has_more then
  redis.call('ZADD', KEYS[1], -now, parts)
  -- it is not relied on before all of it is there
  redis.call('ZREM', KEYS[1], node)
else
  redis.call('ZREM', KEYS[1], parts)
  redis.call('ZADD', KEYS[1], now + lease, node)
  if ends < now then
    redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now)
    redis.call('ZADD', KEYS[1], -(time[1] * 1000000 + time[2]), '')
  end
end
redis.call('PEXPIRE', KEYS[1], lease * 4)
return {1, now, has_more and 0 or 1}
