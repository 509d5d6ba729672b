package qupath.lib.images.servers

import java.awt.image.BufferedImage
import qupath.lib.regions.RegionRequest

class ImageServer {
    int width
    int height
    List<URI> uris
    ImageServerMetadata metadata
    PixelCalibration pixelCalibration
    BufferedImage image
    boolean isClosed

    Collection<URI> getURIs() { uris }

    BufferedImage readRegion(RegionRequest request) {
        assert !isClosed && request.server.is(this)
        image
    }

    void close() { isClosed = true }
}
