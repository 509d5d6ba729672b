package qupath.lib.images.servers

import javax.imageio.ImageIO

class ImageServers {
    static ImageServer buildServer(URI uri, String... args) {
        def image = ImageIO.read(new File(uri))
        new ImageServer(width: image.width, height: image.height, image: image, uris: [uri])
    }
}
