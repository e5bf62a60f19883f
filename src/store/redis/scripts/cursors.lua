-- Moves the cursors of a card's devices forward.
-- KEYS: meta, devices
-- ARGV: max devices, how long devices are kept, then for each device: its field, the epoch ('' for one that was only there when
--       the stream began), the seq

local meta, devices = KEYS[1], KEYS[2]
local known = redis.call('HMGET', meta, 'e', 's')
if not known[1] or not known[2] then
  return 0
end
local epoch, head = known[1], tonumber(known[2])
local most, idle = tonumber(ARGV[1]), tonumber(ARGV[2])

for at = 3, #ARGV, 3 do
  local device, of, seq = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local text = redis.call('HGET', devices, device)
  -- what was of numbers that are no more says nothing of those that are
  local is_of_stream = of == '' or (of == epoch and seq <= head)
  if is_of_stream and text then
    if of ~= '' then
      set_cursor(devices, device, math.max(math.min(cursor(text), head), seq))
    end
  elseif is_of_stream and make_room(devices, most, idle) then
    set_cursor(devices, device, math.min(seq, head))
  end
end
keep(meta, devices, idle)
return 1
