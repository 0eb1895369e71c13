-- The beginning of every script.
--
-- The epoch is one life of the sequences. A server that has lost its memory begins a new one; marks in `channels` and
-- `times` tell whether a server that evicts keys has evicted those. So does every other run: after a restart, a
-- restored dump or a failover, a server cannot know which of the last events were acknowledged and are gone. Commands
-- are kept: hubs that have not heard them obey them before their clients start anew.

local state, channels, times = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch, run, seq, forgotten, total, checked
local kept = redis.call('GET', state)
if kept and #kept > 32 then
    seq, forgotten, total, checked = struct.unpack('<dddd', kept)
    epoch, run = string.match(kept, '^([0-9a-z]+) (%w+)$', 33)
end
-- Another program may have written here. Lua writes numbers with up to 14 digits.
local is_sound = epoch and #epoch < 33 and seq >= 0 and seq < 1e14 and seq % 1 == 0

local function save()
    redis.call('SET', state, struct.pack('<dddd', seq, forgotten, total, checked) .. epoch .. ' ' .. run)
end

-- Publishing trusts a look at the run for some milliseconds, in which no server loses what it had and is back. One that
-- has restarted does not know the script, and is told it with a "!".
local fresh = ARGV[1]
if string.sub(fresh, 1, 1) == '!' then
    fresh, trusted_for = string.sub(fresh, 2), 0
end
if not is_sound or not (now >= checked and now - checked < trusted_for) then
    -- A replication id is of one run as a primary: the run id stays when a primary is demoted, loses events, and
    -- returns.
    local present = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
        or string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
    checked = now
    if not is_sound or run ~= present or redis.call('HEXISTS', channels, '') == 0
        or not redis.call('ZSCORE', times, '') then
        epoch, run, seq, forgotten, total = fresh, present, 0, 0, 0
        save()
        redis.call('DEL', channels, times)
        redis.call('HSET', channels, '', '')
        redis.call('ZADD', times, '+inf', '')
    end
end
