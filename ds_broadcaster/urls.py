"""What `include("ds_broadcaster.urls")` serves."""

from . import broadcast
from .inspector import Inspector

app_name = "ds_broadcaster"

urlpatterns = Inspector(broadcast).urlpatterns()
