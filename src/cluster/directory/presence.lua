-- Which cards are in the rooms of one partition, on which nodes.
-- KEYS[1]  set: the nodes that have written all they hold of this partition
-- KEYS[2]  set: what ARGV[1] has written, each as room, NUL, card
-- KEYS[3]  string '<number>:<answer>' of the last script of ARGV[1]; the answer 'taken': other nodes have taken out what it had written
-- KEYS[4…] hashes, one for each change: the cards of a room, each with its nodes as ',a,b,'
-- ARGV     the node; what this is (below); its number, which grows; how many nodes hold clients; their ids; for each change what stands in
--          KEYS[2], the card, and 1: the node has it there, 0: it has not
--            begin     the node is about to write all it holds
--            restore   part of what it had written before;  complete  the last part
--            changes   what has changed since. Sent again under its number it is done once
--            take      of a node that is gone: these changes are taken out, and more are named
-- Answers  done (1; 0: not all nodes have written what they hold; -1: the node has to begin), now (microseconds), and
--            begin: its last script as KEYS[3] has it, what KEYS[2] has
--            changes, take: for each change a digit: 1: the card is in the room, on any node, + 2: that is new
--            take: some of what KEYS[2] still has
local node, what, number, readers = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stored = redis.call('GET', KEYS[3]) or '0:'
local last, answer = stored:match('^(%d+):(.*)$')
last = tonumber(last)

local function remember(text)
  redis.call('SET', KEYS[3], string.format('%.0f', number) .. ':' .. text)
end

local function is_settled()
  for at = 5, 4 + readers do
    if redis.call('SISMEMBER', KEYS[1], ARGV[at]) == 0 then
      return false
    end
  end
  return true
end

local function apply()
  local digits = {}
  local own = ',' .. node .. ','
  for at = 4, #KEYS do
    local first = 5 + readers + (at - 4) * 3
    local member, card, holds = ARGV[first], ARGV[first + 1], ARGV[first + 2] == '1'
    local before = redis.call('HGET', KEYS[at], card) or ''
    local after = before
    local place = before:find(own, 1, true)
    if holds and not place then
      after = (before == '' and ',' or before) .. node .. ','
    elseif not holds and place then
      after = before:sub(1, place) .. before:sub(place + #own)
      if after == ',' then
        after = ''
      end
    end
    if after == '' then
      redis.call('HDEL', KEYS[at], card)
    elseif after ~= before then
      redis.call('HSET', KEYS[at], card, after)
    end
    redis.call(holds and 'SADD' or 'SREM', KEYS[2], member)
    digits[#digits + 1] = (after ~= '' and 1 or 0) + ((before == '') ~= (after == '') and 2 or 0)
  end
  return table.concat(digits)
end

if what == 'begin' then
  redis.call('SREM', KEYS[1], node)
  -- what an earlier script answered stays until all is written: that answer may not have come
  if last == 0 then
    remember(answer)
  end
  return {1, now, stored, redis.call('SMEMBERS', KEYS[2])}
end
if what == 'take' then
  redis.call('SREM', KEYS[1], node)
  -- it may come back by itself as long as that
  redis.call('SET', KEYS[3], '0:taken', 'PX', 86400000)
  if not is_settled() then
    return {0, now}
  end
  return {1, now, apply(), redis.call('SRANDMEMBER', KEYS[2], 256)}
end
if last == 0 or number < last then
  return {-1, now}
end
if what == 'changes' then
  if redis.call('SISMEMBER', KEYS[1], node) == 0 then
    return {-1, now}
  end
  if number == last then
    return {1, now, answer}
  end
  if #KEYS > 3 then
    if not is_settled() then
      return {0, now}
    end
    answer = apply()
    remember(answer)
    return {1, now, answer}
  end
  return {1, now, ''}
end
apply()
if what == 'complete' then
  redis.call('SADD', KEYS[1], node)
  remember('')
else
  remember(answer)
end
return {1, now, ''}
