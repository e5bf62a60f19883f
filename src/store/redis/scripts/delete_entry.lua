-- Deletes one push of a stream.
-- KEYS: meta, entries, gone
-- ARGV: seq, how long pushes that are gone are known
-- Answer: 1: it was there

local entry = entry_at(KEYS[2], tonumber(ARGV[1]))
if not entry then
  return 0
end
remove(KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[2]), entry)
return 1
