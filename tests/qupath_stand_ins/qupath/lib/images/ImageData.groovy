package qupath.lib.images

import qupath.lib.images.servers.ImageServer
import qupath.lib.objects.Hierarchy

class ImageData {
    ImageServer server
    Hierarchy hierarchy
}
