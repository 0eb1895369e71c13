from django.contrib import admin

from .models import Order


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["__str__", "customer", "total", "status"]
    list_filter = ["status"]
    search_fields = ["customer"]
