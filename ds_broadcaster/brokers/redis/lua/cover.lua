-- Tell whether there is a history. An error says that another program has put something else there.
local function is_kept(channel, it)
    local length = it and redis.pcall('XLEN', prefix .. 'h:' .. channel)
    return type(length) == 'number' and length > 0
end

-- Tell whether everything after a cursor is still there.
local function covers(channel, it, cursor)
    if not it then
        return cursor >= forgotten
    end
    -- A history expires, or is evicted, as a whole.
    return cursor >= it.last or (cursor >= it.floor and is_kept(channel, it))
end
