"""What the door loads, on the process's main thread: the application itself."""

from serving.app import create
from serving.door import outlive_parent

outlive_parent()

application = create()
