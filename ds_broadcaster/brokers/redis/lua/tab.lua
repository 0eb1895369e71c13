-- Tell every process of a tab that is closed.
--
-- ARGV: epoch, the topic for all processes, and the tab. Returns epoch.

redis.call('PUBLISH', ARGV[2], epoch .. ' 0 t' .. ARGV[3])
return {epoch}
