package qupath.lib.objects

/** PathObjectHierarchy. */
class Hierarchy {
    List<PathObject> objects = []
    List<Integer> added = []

    Collection<PathObject> getAllObjects(boolean includeRoot) {
        assert !includeRoot
        objects.collect()
    }

    void removeObjects(Collection<PathObject> some, boolean keepChildren) {
        assert keepChildren
        objects.removeAll(some)
    }

    boolean addObjects(Collection<PathObject> some) {
        added << some.size()
        objects.addAll(some)
    }
}
