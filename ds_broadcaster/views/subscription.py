"""The stream behind `{% broadcast_subscribe %}`: a signed token says which channels it carries."""

import logging
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.utils.decorators import method_decorator

from .channel_view import BroadcastChannelView
from .tokens import BadToken, read_token

logger = logging.getLogger("ds_broadcaster")

URL_NAME = "subscribe"


# The token decides: pages that are shown to everybody may subscribe too.
@method_decorator(login_not_required, name="dispatch")
class Subscription(BroadcastChannelView):
    """Opens a stream of the channels in the token, for the user it was made for."""

    url_path = "subscribe/<str:token>/"
    url_name = URL_NAME

    def has_permission(self) -> bool:
        """Read the token; why it is refused is nobody's business but ours."""
        user: Any = getattr(self.request, "user", None)
        try:
            self.channels = read_token(self.kwargs["token"], user)
        except BadToken as error:
            logger.warning("Refused a subscription: %s.", error)
            return False
        return True

    def channel_name(self) -> list[str]:
        """Return the channels in the token."""
        return list(self.channels)
