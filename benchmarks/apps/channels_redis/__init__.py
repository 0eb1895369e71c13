"""Django Channels with the pub/sub layer of channels_redis, as the documentation of both sets them up."""
