package qupath.lib.objects

/** There is one of each name, which keeps its colour whatever the next one says. */
class PathClass {
    static Map<String, PathClass> known = [:]
    String name
    List colour

    static PathClass getInstance(String name, List colour) {
        if (!known.containsKey(name))
            known[name] = new PathClass(name: name, colour: colour)
        known[name]
    }

    void setColor(int red, int green, int blue) { colour = [red, green, blue] }

    String toString() { name }
}
