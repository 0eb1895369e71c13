from django.http import HttpResponse
from django.shortcuts import render

from .models import Note


def wall(request):
    if request.method == "POST":
        Note.objects.create(text=request.POST["text"][:200])
        return HttpResponse(status=204)
    return render(request, "wall/wall.html", {"notes": Note.objects.order_by("pk")})
