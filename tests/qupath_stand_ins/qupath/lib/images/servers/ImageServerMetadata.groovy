package qupath.lib.images.servers

class ImageServerMetadata {
    String name
}
