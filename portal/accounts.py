"""Who may sign in to the portal."""

from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password


def create_staff(name: str, password: str, admin: bool) -> User:
    """Make a staff user; an admin also manages users. Raises ValidationError: name taken or invalid, password weak."""
    user = User(username=name, is_staff=True, is_superuser=admin)
    user.full_clean(exclude=["password"])
    validate_password(password, user)
    user.set_password(password)
    user.save(force_insert=True)
    return user


def admin_exists() -> bool:
    """Tell whether anybody can sign in and manage users."""
    return User.objects.filter(is_superuser=True, is_active=True).exists()


def find_admin(preferred: str) -> User | None:
    """Return the administrator of that name; without one, the administrator who was made first."""
    administrators = User.objects.filter(is_superuser=True, is_active=True)
    return administrators.filter(username=preferred).first() or administrators.order_by("pk").first()
