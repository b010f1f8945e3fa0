"""What the door loads: the application itself."""

from serving.app import create

application = create()
