from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET, require_POST

from ds_broadcaster import broadcast_saved

from .models import unread


@require_GET
@login_required
def page(request, template_name):
    """Show a page, with the notifications for the bell in its base template."""
    notifications = request.user.notifications.order_by("-pk")[:20]
    return render(request, template_name, {"notifications": notifications, "unread": unread(request.user)})


@require_POST
@login_required
def notify(request):
    user = get_object_or_404(get_user_model(), pk=request.POST["user"])
    user.notifications.create(text=f"{request.user.first_name}: {request.POST['text']}"[:200])
    return HttpResponse(status=204)


@require_POST
@login_required
def mark_read(request, pk):
    notification = get_object_or_404(request.user.notifications, pk=pk)
    notification.read = True
    notification.save()
    return HttpResponse(status=204)


@require_POST
@login_required
def mark_all_read(request):
    changed = list(request.user.notifications.filter(read=False))
    request.user.notifications.filter(read=False).update(read=True)
    for notification in changed:
        notification.read = True
    broadcast_saved(changed)
    return HttpResponse(status=204)
