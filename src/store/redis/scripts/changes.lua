-- What has changed in a partition since a place in its list.
-- KEYS: the list
-- ARGV: the place ('' for its end), how many changes, how many the list keeps
-- Answer: {1, end}: the list does not reach back so far; else {0, the place now, then for each: address, epoch, seq, id}

local list, place = KEYS[1], ARGV[1]
local newest = redis.call('XREVRANGE', list, '+', '-', 'COUNT', 1)[1]
local last = newest and newest[1] or '0-0'
if place == '' then
  return { 0, last }
end
-- a place that is not in it was trimmed, or is of a list that a fail-over cut back
local reaches_back
if place == '0-0' then
  reaches_back = redis.call('XLEN', list) < tonumber(ARGV[3])
else
  reaches_back = #redis.call('XRANGE', list, place, place) > 0
end
if not reaches_back then
  return { 1, last }
end
local found = { 0, place }
for _, change in ipairs(redis.call('XRANGE', list, '(' .. place, '+', 'COUNT', ARGV[2])) do
  local fields = change[2]
  found[2] = change[1]
  found[#found + 1] = fields[2]
  found[#found + 1] = fields[4]
  found[#found + 1] = tonumber(fields[6])
  found[#found + 1] = fields[8]
end
return found
