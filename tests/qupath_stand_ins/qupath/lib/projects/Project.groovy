package qupath.lib.projects

import qupath.lib.objects.PathClass

class Project {
    List<PathClass> classes = []
    boolean isSynced

    List<PathClass> getPathClasses() { classes.asImmutable() }

    boolean setPathClasses(Collection<PathClass> some) {
        def isChanged = classes != some
        classes = some as List
        isChanged
    }

    void syncChanges() { isSynced = true }
}
