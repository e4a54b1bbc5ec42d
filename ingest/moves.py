"""The moves of an envelope between the queue and those who hold it, each one script of Redis: see `ingest.holdings`.

Times are the server's, in seconds. Each script begins with a command that Redis allows when its memory is full: what
takes entries out must go on then.
"""

_NOW = "local time = redis.call('TIME'); local now = time[1] + time[2] / 1e6\n"

# The server's clock may jump back (a failover to a slower one, NTP). Times that lie ahead since then become now: those
# who live and work renew them, and for the others they pass from now on, not only when the clock is where it was.
_NONE_AHEAD = """
for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'LIMIT', 0, 1000)) do
  redis.call('ZREM', KEYS[1], ahead)
  redis.call('ZADD', KEYS[1], now, ahead)
end
"""

# Moves `tags` from what a worker holds to where they are taken next. KEYS: queue, held, since.
_PUT_BACK = """
for _, tag in ipairs(tags) do
  local entry = redis.call('HGET', KEYS[2], tag)
  redis.call('ZREM', KEYS[3], tag)
  if entry then
    redis.call('HDEL', KEYS[2], tag)
    redis.call('RPUSH', KEYS[1], entry)
  end
end
"""

# KEYS: queue, held, since, workers, dead letters. ARGV: worker, how many, how many bytes, the task's name, the code of
# what is malformed. Answers tag, entry, tag, entry, ... and the ids of the malformed: what is no task of ours would
# crash a worker again and again, and goes to the dead letters.
CLAIM = (
    _NOW
    + """
local function tag_of(entry)
  local ok, message = pcall(cjson.decode, entry)
  if not ok or type(message) ~= 'table' then return nil end
  local headers, properties = message.headers, message.properties
  if type(headers) == 'table' and type(headers.id) == 'string' and headers.task == ARGV[4]
    and (headers.compression == nil or headers.compression == cjson.null)
    and type(properties) == 'table' and type(properties.delivery_tag) == 'string'
    and type(properties.delivery_info) == 'table' and type(message.body) == 'string'
    and (properties.body_encoding == nil or properties.body_encoding == 'base64')
    and message['content-type'] == 'application/json' and message['content-encoding'] == 'utf-8' then
    return properties.delivery_tag
  end
end
local claimed, malformed, bytes = {}, {}, 0
while #claimed < 2 * ARGV[2] and bytes < tonumber(ARGV[3]) do
  local entry = redis.call('RPOP', KEYS[1])
  if not entry then break end
  bytes = bytes + #entry
  local tag = tag_of(entry)
  if not tag then
    local id = 'malformed-' .. redis.sha1hex(entry)
    local letter = {id = id, code = ARGV[5], at = math.floor(now), entry = entry}
    redis.call('HSET', KEYS[5], id, cjson.encode(letter))
    malformed[#malformed + 1] = id
  else
    redis.call('HSET', KEYS[2], tag, entry)
    redis.call('ZADD', KEYS[3], now, tag)
    claimed[#claimed + 1] = tag
    claimed[#claimed + 1] = entry
  end
end
if #claimed > 0 then redis.call('ZADD', KEYS[4], now, ARGV[1]) end
return {claimed, malformed}
"""
)

# KEYS: held, since. ARGV: tags.
RELEASE = """
local released = redis.call('HDEL', KEYS[1], unpack(ARGV))
redis.call('ZREM', KEYS[2], unpack(ARGV))
return released
"""

# KEYS: queue, held, since. ARGV: tags in the order in which they were taken; they will be taken in that order again.
GIVE_BACK = """
local given = 0
for i = #ARGV, 1, -1 do
  local entry = redis.call('HGET', KEYS[2], ARGV[i])
  redis.call('ZREM', KEYS[3], ARGV[i])
  if entry then
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('RPUSH', KEYS[1], entry)
    given = given + 1
  end
end
return given
"""

# The same, but to where they are taken last: others come first.
PUT_LAST = GIVE_BACK.replace("RPUSH", "LPUSH")

# KEYS: workers. ARGV: worker. From now on it counts as dead, until RESTORE has put back what it held.
SIGN_OFF = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], 0, ARGV[1])
"""

# KEYS: held, since, dead letters. ARGV: tag, code, tag, code, ...
BURY = (
    _NOW
    + """
local buried = 0
for i = 1, #ARGV, 2 do
  local entry = redis.call('HGET', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
  if entry then
    redis.call('HDEL', KEYS[1], ARGV[i])
    local letter = {id = ARGV[i], code = ARGV[i + 1], at = math.floor(now), entry = entry}
    redis.call('HSET', KEYS[3], ARGV[i], cjson.encode(letter))
    buried = buried + 1
  end
end
return buried
"""
)

# KEYS: workers. ARGV: worker, life. Notes the heartbeat; answers the workers whose own is gone.
BEAT = (
    _NOW
    + """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
"""
    + _NONE_AHEAD
    + """
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - ARGV[2]), 'LIMIT', 0, 100)
"""
)

# KEYS: queue, held, since, workers. ARGV: worker, life, how many. Puts back what a dead worker held, oldest last, so
# that it is next; forgets the worker when nothing is left. Answers how many.
RESTORE = (
    _NOW
    + """
local beat = redis.call('ZSCORE', KEYS[4], ARGV[1])
if beat and tonumber(beat) >= now - ARGV[2] then return 0 end
local tags = redis.call('ZREVRANGE', KEYS[3], 0, ARGV[3] - 1)
"""
    + _PUT_BACK
    + """
if #tags < tonumber(ARGV[3]) then redis.call('ZREM', KEYS[4], ARGV[1]) end
return #tags
"""
)

# KEYS: queue, held, since. ARGV: seconds, how many. Puts back what a living worker has held for too long.
RESTORE_OVERDUE = (
    _NOW
    + _NONE_AHEAD.replace("KEYS[1]", "KEYS[3]")
    + """
local tags = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])
"""
    + _PUT_BACK
    + """
return #tags
"""
)

# KEYS: since. ARGV: tags. Still being worked on: not overdue.
TOUCH = (
    _NOW
    + """
for _, tag in ipairs(ARGV) do
  if redis.call('ZREM', KEYS[1], tag) == 1 then redis.call('ZADD', KEYS[1], now, tag) end
end
"""
)

ALL = (CLAIM, RELEASE, GIVE_BACK, PUT_LAST, BURY, BEAT, SIGN_OFF, RESTORE, RESTORE_OVERDUE, TOUCH)
