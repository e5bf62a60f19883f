-- Deletes one push of a stream.
-- KEYS: meta, entries
-- ARGV: seq
-- Answer: 1: it was there

local entry = entry_at(KEYS[2], tonumber(ARGV[1]))
if not entry then
  return 0
end
remove(KEYS[1], KEYS[2], entry)
return 1
