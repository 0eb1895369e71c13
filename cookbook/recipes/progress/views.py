from django.contrib.auth.decorators import login_required
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET, require_POST

from ds_broadcaster import BroadcastChannelView

from . import jobs
from .models import Job


# section: channel
class JobChannel(BroadcastChannelView):
    url_path = "jobs/<int:pk>/"

    def get_job(self):
        return get_object_or_404(Job, pk=self.kwargs["pk"])

    def channel_name(self):
        return self.get_job()

    def has_permission(self):
        return self.get_job().owner == self.request.user

    def render_snapshot(self):
        job = self.get_job()
        return render_to_string("progress/_result.html", {"job": job}), job.signals


# end: channel


@require_GET
@login_required
def index(request):
    return render(request, "progress/index.html", {"jobs": request.user.jobs.order_by("-pk")})


@require_POST
@login_required
def start(request):
    job = request.user.jobs.create()
    jobs.start(job.pk)
    return redirect("job", job.pk)


@require_GET
@login_required
def job(request, pk):
    return render(request, "progress/job.html", {"job": get_object_or_404(Job, pk=pk, owner=request.user)})
