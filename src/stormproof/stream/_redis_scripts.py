"""What RedisBus runs inside the server, where nothing comes in between.

A log is a stream whose ids are `<epoch>-<offset>`; the hash beside it names its epoch and the
server process that appended last.
"""

from ._follow import LEAP

_COMMON = """
local log, facts = KEYS[1], KEYS[2]

local function last_id()
  local told = redis.call('XINFO', 'STREAM', log)
  for i = 1, #told, 2 do
    if told[i] == 'last-generated-id' then return told[i + 1] end
  end
end

-- Deletes no stream: one that is there goes on with higher ids, whosever it is.
local function begin()
  local now = redis.call('TIME')
  local epoch = now[1] .. string.format('%06d', now[2])
  if redis.call('EXISTS', log) == 1 then
    local before = tonumber(string.match(last_id(), '^%d+'))
    if before >= tonumber(epoch) then epoch = string.format('%.0f', before + 1) end
  else -- a stream without entries cannot be made directly
    redis.call('XGROUP', 'CREATE', log, 'begin', '0', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', log, 'begin')
  end
  redis.call('XSETID', log, epoch .. '-0')
  redis.call('DEL', facts)
  redis.call('HSET', facts, 'epoch', epoch)
  return epoch
end

local function current_epoch()
  local epoch = redis.call('HGET', facts, 'epoch')
  if epoch and redis.call('EXISTS', log) == 1 then return epoch end
  return begin()
end
"""

LOOK = (
    _COMMON
    + """
-- ARGV: the epoch and the offset to read after, how many. Returns epoch, last id, entries.
local epoch = current_epoch()
if epoch ~= ARGV[1] or ARGV[3] == '0' then return {epoch, last_id(), {}} end
local after = '(' .. epoch .. '-' .. ARGV[2]
return {epoch, last_id(), redis.call('XRANGE', log, after, '+', 'COUNT', ARGV[3])}
"""
)

APPEND = (
    _COMMON
    + f"""
-- KEYS[3]: what this publisher appended last: the number of the batch, and its last id.
-- ARGV: the number of this batch, the server process, how many entries to keep;
-- then for each entry its topic, data, '=' and event or '', '=' and key or ''.
local said = redis.call('GET', KEYS[3])
if said then
  local number, id = string.match(said, '^(%d+) (.+)$')
  if tonumber(number) == tonumber(ARGV[1]) then return id end
  if tonumber(number) > tonumber(ARGV[1]) then
    return redis.error_reply('STALE a later batch of this publisher is appended')
  end
end

local epoch = current_epoch()
local id, follows = epoch .. '-*', nil
if ARGV[2] ~= '' then
  local process = redis.call('HGET', facts, 'process')
  if process and process ~= ARGV[2] then
    follows = string.match(last_id(), '-(%d+)$')
    id = epoch .. '-' .. string.format('%.0f', tonumber(follows) + {LEAP})
  end
  redis.call('HSET', facts, 'process', ARGV[2])
end

local last
for i = 4, #ARGV, 4 do
  local fields = {{'t', ARGV[i], 'd', ARGV[i + 1]}}
  if ARGV[i + 2] ~= '' then
    fields[#fields + 1] = 'e'
    fields[#fields + 1] = string.sub(ARGV[i + 2], 2)
  end
  if ARGV[i + 3] ~= '' then
    fields[#fields + 1] = 'k'
    fields[#fields + 1] = string.sub(ARGV[i + 3], 2)
  end
  if follows then
    fields[#fields + 1] = 'f'
    fields[#fields + 1] = follows
    follows = nil
  end
  last = redis.call('XADD', log, 'MAXLEN', '~', ARGV[3], id, unpack(fields))
  id = epoch .. '-*'
end
redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. last, 'EX', 3600)
return last
"""
)
