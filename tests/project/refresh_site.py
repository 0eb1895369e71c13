"""A page that refreshes itself. It is a ROOT_URLCONF: the site of the template tags is served too."""

from collections import defaultdict

from django.contrib.auth.decorators import login_not_required
from django.http import HttpResponse, JsonResponse
from django.template import RequestContext, Template
from django.urls import path

from tests.project import tag_site

# What came to the page's view, in order.
asked = defaultdict(list)

PAGE = Template("""{% load ds_broadcaster %}<!doctype html>
<html lang="en"{% if nonce %} data-nonce="{{ nonce }}"{% endif %}>
<head>
    <meta charset="utf-8">
    <title>{{ number }}</title>
    <link rel="icon" href="data:,">
    {% datastar_script %}
</head>
<body>
    {% for each in channels %}{% broadcast_subscribe each refresh=refresh %}{% endfor %}
    <span id="state" data-text="$_broadcast"></span> <span id="tab" data-text="$broadcastTab"></span>
    <p id="number">{{ number }}</p>
    <button data-on:click="@get(location.href, {headers: {'Broadcast-Refresh': 'true'}})">Refresh</button>
    <script nonce="{{ nonce }}">window.runs = (window.runs || 0) + 1</script>
    <div data-init="window.inits = (window.inits || 0) + 1"></div>
    <form><input id="field"> <textarea id="text"></textarea>
        <input id="kept" value="{{ number }}" data-preserve-attr="value"></form>
    <details id="more" data-preserve-attr="open"><summary>More</summary>{{ number }}</details>
    <dialog id="dialog" data-preserve-attr="open">{{ number }}</dialog>
    <div id="box" style="height: 50px; overflow: auto"><div style="height: 500px">{{ number }}</div></div>
    <div data-ignore-morph id="ignored">{{ number }}</div>
    <div style="height: 3000px"></div>
    <ol id="log">{% for each in numbers %}<li id="row-{{ each }}">{{ each }}<input></li>{% endfor %}</ol>
{% if not bare %}
</body>
</html>{% endif %}
""")


@login_not_required
def page(request, channel):
    """The page: its `number` counts its requests. `?nonce=` gives it a policy, `?bare=1` leaves out the end tags.

    `?refresh=` is a selector of what is refreshed.
    """
    asked[channel].append({"query": request.GET, "headers": dict(request.headers), "path": request.get_full_path()})
    number, nonce = len(asked[channel]), request.GET.get("nonce", "")
    request.csp_nonce = nonce and f"{nonce}{number}"
    context = {
        "channels": channel.split(","),
        "number": number,
        "numbers": range(number, 0, -1),
        "nonce": request.csp_nonce,
        "bare": "bare" in request.GET,
        "refresh": request.GET.get("refresh", True),
    }
    scripts = f"'nonce-{request.csp_nonce}' 'strict-dynamic'" if nonce else "'self' 'unsafe-inline' 'unsafe-eval'"
    headers = {"Content-Security-Policy": f"script-src {scripts}", "Cache-Control": "max-age=600"}
    return HttpResponse(PAGE.render(RequestContext(request, context)), headers=headers)


@login_not_required
def what_was_asked(request, channel):
    return JsonResponse({"asked": asked[channel]})


urlpatterns = [
    path("page/<str:channel>/", page),
    path("page/<str:channel>/asked/", what_was_asked),
    *tag_site.urlpatterns,
]
