"""The URLs of `include("ds_broadcaster.urls")`: the channel views of every installed app, and our own pages."""

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.urls import path
from django.utils.module_loading import autodiscover_modules

from .broadcaster import broadcast
from .inspector.views import Inspector, is_on
from .views import subscription  # noqa: F401  (defines a channel view)
from .views.closed_tabs import tab_closed
from .views.routes import routes

app_name = "ds_broadcaster"

if not apps.is_installed("ds_broadcaster"):
    # Without the app streams would open, and stay open when their users log out.
    raise ImproperlyConfigured('Add "ds_broadcaster" to INSTALLED_APPS: its urls need the app.')

# Every app is ready when the project's urls are imported, so channel views need no import of their own.
autodiscover_modules("views")

urlpatterns = routes.publish(
    [path("tab-closed/", tab_closed, name="tab-closed"), *(Inspector(broadcast).urlpatterns() if is_on() else [])]
)
