from django.contrib.auth import get_user_model, login, logout
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST
from pydantic import ValidationError

from ds_broadcaster import broadcast, suppress_broadcasts

from . import live
from .channels import HomeChannel, RoomChannel  # noqa: F401  (served under events/)
from .forms import MessageForm, Position, RoomForm
from .models import Membership, Message, Room
from .people import PEOPLE

User = get_user_model()


def done():
    """Answer an action whose effect reaches every page through its stream."""
    return HttpResponse(status=204)


# --- Logging in and out ------------------------------------------------------------------------------------


@require_GET
def home(request):
    if request.user.is_authenticated:
        return show_home(request, RoomForm())
    people = User.objects.filter(username__in=PEOPLE).order_by("pk")
    return render(request, "rooms/people.html", {"people": people, "second_window": second_window(request)})


@require_POST
def log_in(request):
    user = get_object_or_404(User, username__in=PEOPLE, username=request.POST.get("username"))
    login(request, user)
    return redirect("home")


@require_POST
def log_out(request):
    logout(request)
    return redirect("home")


def second_window(request):
    """Return this page's address under another host name, where a second window can log in as another user."""
    host, _, port = request.get_host().partition(":")
    other = {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}.get(host)
    return other and f"{request.scheme}://{other}:{port or 80}/"


# --- The list of rooms -------------------------------------------------------------------------------------


def show_home(request, form, status=200):
    context = {"cards": live.cards(request.user), "form": form, "second_window": second_window(request)}
    return render(request, "rooms/home.html", context, status=status)


@require_POST
@login_required
def create_room(request):
    form = RoomForm(request.POST)
    if not form.is_valid():
        return show_home(request, form, status=422)
    form.instance.owner = request.user
    room = form.save()
    room.members.set(User.objects.filter(username__in=PEOPLE))
    return redirect("room", room.pk)


@require_POST
def delete_room(request, pk):
    room = owned_room(request, pk)
    channel = room.channel
    notice = {"title": f"“{room.name}” is gone", "text": f"{request.user.first_name} deleted this room."}
    with suppress_broadcasts(Message):
        room.delete()
    broadcast.template(channel, "rooms/_closed.html", notice)
    broadcast.kill(channel)
    return redirect("home")


# --- A room ------------------------------------------------------------------------------------------------


@require_GET
@login_required
def room(request, pk):
    room = Room.objects.filter(pk=pk).first()
    if room is None or not room.is_open_to(request.user):
        return render(request, "rooms/closed.html", status=403)
    context = {"messages": room.history(), "second_window": second_window(request)}
    context |= live.roster(room, broadcast.get_presence(room.channel), viewer_id=request.user.pk)
    return render(request, "rooms/room.html", context)


def open_room(request, pk):
    """Return the room this request acts in, or answer with a 403."""
    room = get_object_or_404(Room, pk=pk)
    if not room.is_open_to(request.user):
        raise PermissionDenied
    return room


def owned_room(request, pk):
    """Return the room this request manages, or answer with a 403: only its owner may."""
    room = open_room(request, pk)
    if room.owner_id != request.user.pk:
        raise PermissionDenied
    return room


@require_POST
def send(request, pk):
    room = open_room(request, pk)
    form = MessageForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors}, status=422)
    form.instance.room, form.instance.author = room, request.user
    form.save()
    live.show_typing(room, request.user, typing=False)
    return JsonResponse({"_text": ""})  # signals: empty the text field


@require_POST
def typing(request, pk):
    live.show_typing(open_room(request, pk), request.user)
    return done()


@require_POST
def pointer(request, pk):
    room = open_room(request, pk)
    try:
        position = Position.model_validate_json(request.body).css()
    except ValidationError as error:
        return HttpResponse(error.json(), status=422, content_type="application/json")
    if position is None:
        live.hide_pointer(room, request.user)
    else:
        live.show_pointer(room, request.user, position)
    return done()


@require_POST
def kick(request, pk, user_pk):
    room = owned_room(request, pk)
    if user_pk == room.owner_id:
        return HttpResponse("The owner stays.", status=422)
    membership = get_object_or_404(Membership, room=room, user=user_pk)
    membership.kicked = True
    membership.save()
    notice = {"title": f"You are out of “{room.name}”", "text": f"{request.user.first_name} removed you."}
    broadcast.template(room.personal_channel(user_pk), "rooms/_closed.html", notice)
    broadcast.disconnect(room.channel, user_pk)
    live.show_roster(room)
    return done()


@require_POST
def let_in(request, pk, user_pk):
    room = owned_room(request, pk)
    membership = get_object_or_404(Membership, room=room, user=user_pk)
    membership.kicked = False
    membership.save()
    live.show_roster(room)
    return done()
