"""What `include("ds_broadcaster.urls")` serves: the channel views of every installed app, and the inspector."""

from django.utils.module_loading import autodiscover_modules

from . import subscriptions  # noqa: F401  (a channel view of our own)
from .broadcaster import broadcast
from .inspector import Inspector
from .routes import routes

app_name = "ds_broadcaster"

# Every app is ready when the project's urls are imported, so a module that defines a channel view need not be
# imported by anybody else.
autodiscover_modules("views")

urlpatterns = routes.publish(Inspector(broadcast).urlpatterns())
