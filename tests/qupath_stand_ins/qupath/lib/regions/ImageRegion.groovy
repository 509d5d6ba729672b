package qupath.lib.regions

class ImageRegion {
    List<Integer> numbers

    static ImageRegion createInstance(int x, int y, int width, int height, int z, int t) {
        new ImageRegion(numbers: [x, y, width, height, z, t])
    }
}
