from django import template

register = template.Library()


@register.filter
def hue(user):
    """Return the hue of a user's colour; the golden angle keeps successive hues apart."""
    return (user.pk * 137 + 110) % 360


@register.filter
def initials(user):
    return "".join(part[:1] for part in user.get_full_name().split())[:2] or user.username[:2]


@register.inclusion_tag("rooms/_avatar.html")
def avatar(user):
    return {"user": user}
