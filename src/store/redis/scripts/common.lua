-- What the scripts of a stream share. Keys of a stream, all of one slot:
--   meta     hash: c there if it was cut back once, e epoch, s newest seq, i its id, q and j seq and id before it, b bytes, u the latest deadline,
--            k<collapse key> the seq of its push, p<id> "<seq>:<previous>:<previous id>" of a push that may be tried again
--   entries  Redis stream: <seq>-0 = {i id, u until, k collapse key, r record}
--   devices  hash: d<device> or a<app> = "<seq>:<second it was heard of>"
--   gone     sorted set: ids of pushes that might be tried again and were taken out, by when
-- Times are this server's, in milliseconds since 1970: the nodes' clocks may differ.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- What an entry costs beside its record, about.
local OVERHEAD = 64
-- A stream without pushes and cursors is kept so long: who comes back within it finds its epoch.
local KEEP_EMPTY = 600000
-- So many ids of pushes that are gone are kept for a stream.
local MOST_GONE = 128

local function id_of(seq)
  return string.format('%.0f-0', seq)
end

local function seq_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

-- The entry at seq, or nil.
local function entry_at(entries, seq)
  if seq < 1 then
    return nil
  end
  return redis.call('XRANGE', entries, id_of(seq), id_of(seq))[1]
end

-- The oldest entry, or nil.
local function oldest(entries)
  return redis.call('XRANGE', entries, '-', '+', 'COUNT', 1)[1]
end

-- Takes an entry out; how many bytes went. For keep_gone milliseconds a retry of its push is known not to be a new one.
local function remove(meta, entries, gone, keep_gone, entry)
  local fields = entry[2]
  local bytes = #fields[8] + OVERHEAD
  redis.call('XDEL', entries, entry[1])
  redis.call('HINCRBY', meta, 'b', -bytes)
  if redis.call('HDEL', meta, 'p' .. fields[2]) == 1 then
    redis.call('ZADD', gone, now, fields[2])
    redis.call('ZREMRANGEBYRANK', gone, 0, -1 - MOST_GONE)
    redis.call('PEXPIRE', gone, keep_gone)
  end
  local collapse = 'k' .. fields[6]
  if fields[6] ~= '' and redis.call('HGET', meta, collapse) == string.format('%.0f', seq_of(entry)) then
    redis.call('HDEL', meta, collapse)
  end
  return bytes
end

-- A device's cursor, read.
local function cursor(text)
  local seq, seen = string.match(text, '^(%d+):(%d+)$')
  return tonumber(seq), tonumber(seen)
end

local function cursor_text(seq)
  return string.format('%.0f:%.0f', seq, math.floor(now / 1000))
end

local function set_cursor(devices, device, seq)
  redis.call('HSET', devices, device, cursor_text(seq))
end

-- Forgets the devices that were away for too long, and sees to it that one more has room; false: it has none.
local function make_room(devices, most, idle)
  local known = redis.call('HGETALL', devices)
  local left = 0
  for at = 1, #known, 2 do
    local _, seen = cursor(known[at + 1])
    if now - seen * 1000 >= idle then
      redis.call('HDEL', devices, known[at])
    else
      left = left + 1
    end
  end
  return left < most
end

-- Cursors live until nobody was heard of for idle; the stream lives as long, so that its numbers go on.
local function keep(meta, devices, idle)
  if redis.call('PEXPIRE', devices, idle) == 1 then
    redis.call('PEXPIRE', meta, idle + KEEP_EMPTY, 'GT')
  end
end
