-- The push of an idempotency key is stored, or the queue has it.
-- KEYS: the key

local known = redis.call('GET', KEYS[1])
if known then
  redis.call('SET', KEYS[1], string.sub(known, 1, 24) .. 'd', 'KEEPTTL')
end
return 1
