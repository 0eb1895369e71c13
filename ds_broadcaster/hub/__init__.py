"""The engine: channels, their logs, and the connections of one process. asyncio only: no HTTP, no ORM.

`hub` puts the parts together; each part takes what it uses in its constructor. From the ground up: `roster`, `threads`,
`channel`, `grant`, `replay`, `connections`, `channels`, `tabs`, `rechecks`, `presence`, `presence_sync`, `hub`.
"""
