"""What `include("ds_broadcaster.urls")` serves: the channel views of every installed app, and the inspector."""

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

from .broadcaster import broadcast
from .inspector.views import Inspector
from .views import subscription as subscriptions  # noqa: F401  (a channel view of our own)
from .views.routes import routes

app_name = "ds_broadcaster"

if not apps.is_installed("ds_broadcaster"):
    # Streams would open all the same, and stay open when their users log out.
    raise ImproperlyConfigured('Add "ds_broadcaster" to INSTALLED_APPS: its urls need the app.')

# Every app is ready when the project's urls are imported, so a module that defines a channel view need not be
# imported by anybody else.
autodiscover_modules("views")

urlpatterns = routes.publish(Inspector(broadcast).urlpatterns())
