-- Find a client's position.
--
-- KEYS: ... a history for each channel. ARGV: epoch, the client's epoch and sequence, max_age (ms), the channels.
-- Returns epoch, newest sequence, and for each channel 0 if it does not cover the client's cursor, 2 if it has been
-- refreshed since, and 1 otherwise.

local seq = tonumber(redis.call('HGET', state, 'seq'))
local found = {epoch, seq}
local cursor = tonumber(ARGV[3])
for position = 5, #ARGV do
    local channel, history = ARGV[position], KEYS[position + 1]
    local covered = ARGV[2] == epoch and cursor <= seq
    if covered and is_kept(channel, history) then
        trim(channel, history, math.huge, math.huge, tonumber(ARGV[4]))
    end
    local is_refreshed = tonumber(redis.call('HGET', refreshed, channel) or 0) > cursor
    found[position - 2] = covered and covers(channel, history, cursor) and (is_refreshed and 2 or 1) or 0
end
return found
