"""What `include("ds_broadcaster.urls")` serves."""

app_name = "ds_broadcaster"

urlpatterns: list = []
