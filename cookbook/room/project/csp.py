"""A Content-Security-Policy under Django 5.2. Django 6.0 has a middleware and a context processor of its own."""

import secrets

from django.conf import settings
from django.utils.deprecation import MiddlewareMixin

NONCE = "<CSP_NONCE_SENTINEL>"


class ContentSecurityPolicyMiddleware(MiddlewareMixin):
    def process_request(self, request):
        request.csp_nonce = secrets.token_urlsafe(16)

    def process_response(self, request, response):
        policy = "; ".join(" ".join([name, *sources]) for name, sources in settings.SECURE_CSP.items())
        response.headers["Content-Security-Policy"] = policy.replace(NONCE, f"'nonce-{request.csp_nonce}'")
        return response


def csp(request):
    return {"csp_nonce": request.csp_nonce}
