from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET, require_POST

from ds_broadcaster import BroadcastChannelView, broadcast_saved

from .models import Task


class TaskChannel(BroadcastChannelView):
    url_path = "tasks/"

    def channel_name(self):
        return "tasks"

    def render_snapshot(self):
        return render_to_string("live_list/_tasks.html", {"tasks": Task.objects.all()})


@require_GET
@login_required
def tasks(request):
    return render(request, "live_list/list.html", {"tasks": Task.objects.all()})


def done():
    """Answer an action whose effect reaches every page through its stream, including the sender's."""
    return HttpResponse(status=204)


@require_POST
@login_required
def add(request):
    if text := request.POST["text"].strip():
        Task.objects.create(text=text[:200])
    return done()


@require_POST
@login_required
def rename(request, pk):
    task = get_object_or_404(Task, pk=pk)
    task.text = request.POST["text"].strip()[:200] or task.text
    task.save()
    return done()


@require_POST
@login_required
def toggle(request, pk):
    task = get_object_or_404(Task, pk=pk)
    task.done = not task.done
    task.save()
    return done()


@require_POST
@login_required
def delete(request, pk):
    Task.objects.filter(pk=pk).delete()
    return done()


# section: bulk
@require_POST
@login_required
def all_done(request):
    keys = list(Task.objects.filter(done=False).values_list("pk", flat=True))
    Task.objects.filter(pk__in=keys).update(done=True)
    broadcast_saved(Task.objects.filter(pk__in=keys))
    return done()


# end: bulk
