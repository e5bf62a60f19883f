-- Reads on in a stream.
-- KEYS: meta, entries
-- ARGV: epoch, after, how many pushes, how many bytes (beyond the first push)
-- Answer: nil: no such stream; else {head, head id, 1 if there are more, the id that stands at after ('' where nobody knows),
--         then for each push: seq, id, time left, record}

local meta, entries = KEYS[1], KEYS[2]
local most, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])

local known = redis.call('HMGET', meta, 'e', 's', 'i')
if not known[2] or known[1] ~= ARGV[1] then
  return false
end

local head, at = tonumber(known[2]), tonumber(ARGV[2])
local there = ''
if at == head then
  there = known[3]
else
  local entry = entry_at(entries, at)
  there = entry and entry[2][2] or ''
end

local page = { head, known[3], 0, there }
local count, size, after = 0, 0, '(' .. ARGV[2] .. '-0'
while true do
  local chunk = redis.call('XRANGE', entries, after, '+', 'COUNT', 32)
  for _, entry in ipairs(chunk) do
    local fields = entry[2]
    local left = tonumber(fields[4]) - now
    if left > 0 then
      if count >= most or (count > 0 and size + #fields[8] > most_bytes) then
        page[3] = 1
        return page
      end
      count = count + 1
      size = size + #fields[8]
      page[#page + 1] = seq_of(entry)
      page[#page + 1] = fields[2]
      page[#page + 1] = left
      page[#page + 1] = fields[8]
    end
    after = '(' .. entry[1]
  end
  if #chunk < 32 then
    return page
  end
end
