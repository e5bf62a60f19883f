-- Keeps that a subject's tokens of a second or before are refused.
-- KEYS: the sorted set
-- ARGV: second, subject, for how many seconds it is kept, how many are kept

local life = tonumber(ARGV[3])
-- by this server's clock, which is the same for all nodes; what is kept now stays, however old its second is
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - life))
redis.call('ZADD', KEYS[1], 'GT', ARGV[1], ARGV[2])
-- of too many the oldest make room
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[4]))
-- all go when nothing comes for as long as they are needed
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
