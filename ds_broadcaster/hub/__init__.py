"""The engine: channels, their logs, and the connections of one process. asyncio only: no HTTP, no ORM."""
