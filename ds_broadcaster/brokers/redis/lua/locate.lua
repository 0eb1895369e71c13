-- Find a client's position.
--
-- ARGV: epoch, the client's epoch and sequence, max_events, max_age (ms), the channels. Returns epoch, newest sequence,
-- and for each channel 0 if it does not cover the client's cursor, 2 if it has been refreshed since, and 1 otherwise.

local found = {epoch, seq}
local cursor, max_events, max_age = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local is_known, is_trimmed = ARGV[2] == epoch and cursor <= seq, false
for position = 6, #ARGV do
    local channel, answer = ARGV[position], 0
    local it = is_known and known(channel) or nil
    -- Publishing leaves some more than the limits.
    if is_known and is_kept(channel, it) and trim(channel, it, max_events, math.huge, max_age) then
        note(channel, it)
        is_trimmed = true
    end
    if is_known and covers(channel, it, cursor) then
        answer = it and it.refreshed > cursor and 2 or 1
    end
    found[position - 3] = answer
end
if is_trimmed then
    save()
end
return found
