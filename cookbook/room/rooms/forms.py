from django import forms
from pydantic import BaseModel, FiniteFloat

from .models import Message, Room


class RoomForm(forms.ModelForm):
    class Meta:
        model = Room
        fields = ("name", "topic")


class MessageForm(forms.ModelForm):
    text = forms.CharField(max_length=2000, strip=False)  # keep the indentation of lines

    class Meta:
        model = Message
        fields = ("text",)

    def clean_text(self):
        text = self.cleaned_data["text"].replace("\r\n", "\n").strip("\n").rstrip()
        if not text:
            raise forms.ValidationError("Write something first.")
        return text


class Position(BaseModel):
    """The position of a pointer, as fractions of the stage's width and height; None after it left."""

    x: FiniteFloat | None = None
    y: FiniteFloat | None = None

    def css(self):
        if self.x is None or self.y is None:
            return None
        return tuple(f"{min(max(part, 0), 1):.2%}" for part in (self.x, self.y))
