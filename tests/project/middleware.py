"""Middleware of the kind that real projects have in their stack."""

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware

# Datastar builds its expressions with Function(), hence 'unsafe-eval'.
POLICY = "default-src 'self'; img-src 'self' data:; script-src 'self' 'unsafe-eval'"


@sync_and_async_middleware
def content_security_policy(get_response):
    """Add a Content-Security-Policy to every response, streams included."""
    if iscoroutinefunction(get_response):

        async def middleware(request):
            response = await get_response(request)
            response.headers.setdefault("Content-Security-Policy", POLICY)
            return response
    else:

        def middleware(request):
            response = get_response(request)
            response.headers.setdefault("Content-Security-Policy", POLICY)
            return response

    return middleware
