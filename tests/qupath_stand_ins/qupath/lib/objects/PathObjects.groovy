package qupath.lib.objects

class PathObjects {
    static PathObject createAnnotationObject(ROI roi, PathClass pathClass, Map measurements) {
        new PathObject(kind: "annotation", roi: roi, pathClass: pathClass, measurements: measurements)
    }
}
